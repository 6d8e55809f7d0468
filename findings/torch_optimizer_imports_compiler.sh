#!/bin/sh
# torch 2.13.0: what the first optimizer of a process imports.
#
# Guess: torch.optim.SGD needs nothing beyond `import torch`; the compiler is imported by torch.compile.
#
# Behaviour: the first optimizer of a process imports torch._dynamo, and with it torch._inductor, sympy and hundreds of
# other modules, only to keep the compiler away from the optimizer's methods. So does torch.use_deterministic_algorithms,
# to tell the compiler. Each process that trains pays for it: each worker of a simulation, and each of the processes that a
# deployment of Flower starts for one message; on small models this takes longer than the training.
#
# Seen: after import torch: none; after SGD: torch._dynamo torch._inductor sympy; after use_deterministic_algorithms:
# torch._dynamo torch._inductor sympy.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
loaded() {
	"$folder/venv/bin/python" -W ignore -c "
import sys
import torch
$1
print(*[name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
}
nothing=$(loaded "")
optimizer=$(loaded "torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)")
deterministic=$(loaded "torch.use_deterministic_algorithms(True)")
echo "after import torch: ${nothing:-none}; after SGD: $optimizer; after use_deterministic_algorithms: $deterministic"
test -z "$nothing"
case "$optimizer" in *torch._dynamo*sympy*) ;; *) exit 1 ;; esac
case "$deterministic" in *torch._inductor*) ;; *) exit 1 ;; esac
echo "as stated"
