import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fl.training import devices
from privacy.errors import ConfigError

ROOT = Path(__file__).parents[3]
GPU = torch.device("cuda")  # settings can be made without a GPU


@pytest.fixture(autouse=True)
def settings_as_before() -> Iterator[None]:
    yield
    devices.configure(GPU, threads=1, deterministic=True, tf32=False)


def test_the_cpu_and_auto():
    assert devices.resolve("cpu") == torch.device("cpu")
    assert devices.resolve("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "mps", "meta", "0", "CPU", "cpu,cuda", "auto:1"])
def test_an_unknown_name_is_told_with_those_that_are_allowed(name):
    with pytest.raises(ConfigError, match=r"allowed are auto, cpu, cuda and cuda:N$") as refused:
        devices.resolve(name)
    assert str(refused.value).startswith(f"device={name}: ")


@pytest.mark.parametrize("name", ["cuda:99", *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])])
def test_a_device_that_is_not_there_is_told(name):
    with pytest.raises(ConfigError, match=rf"^device={name}: there are \d+ CUDA devices; use device=cpu"):
        devices.resolve(name)


@pytest.mark.gpu
def test_cuda_where_it_is():
    assert devices.resolve("cuda").type == "cuda"
    assert devices.resolve("cuda:0") == torch.device("cuda:0")


def state() -> tuple[object, ...]:
    backends = torch.backends
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
    )


def test_every_setting_is_set_and_set_back():
    for _ in range(2):
        devices.configure(GPU, threads=2, deterministic=False, tf32=True)
        assert state() == (2, False, True, True, True)
        devices.configure(GPU, threads=1, deterministic=True, tf32=False)
        assert state() == (1, True, False, False, False)


def test_what_somebody_else_changed_is_set_again():
    devices.configure(GPU, threads=1, deterministic=True, tf32=False)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    devices.configure(GPU, threads=1, deterministic=True, tf32=False)
    assert state() == (1, True, False, False, False)


def test_cublas_is_told_before_it_starts():
    code = "import os, torch; from fl.training import devices; devices.configure(torch.device('cpu'), 1, True, False)"
    code += "; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    clean = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert out.stdout.strip() in (":4096:8", ":16:8")  # the two that cuBLAS documents as deterministic


def test_settings_of_cuda_are_left_alone_on_the_cpu():
    devices.configure(torch.device("cpu"), threads=2, deterministic=False, tf32=True)
    assert state() == (2, False, False, False, False)


def test_the_compiler_is_told_where_it_is_loaded_and_never_loaded_for_that():
    code = (
        "import sys, torch; from fl.training import devices; cpu = torch.device('cpu');"
        "devices.configure(cpu, 1, True, False); before = 'torch._dynamo' in sys.modules;"
        "import torch._inductor.config as compiler; untold = compiler.deterministic;"
        "devices.configure(cpu, 1, True, False); told = compiler.deterministic;"
        "devices.configure(cpu, 1, False, False); print(before, untold, told, compiler.deterministic)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False", "True", "False"]
