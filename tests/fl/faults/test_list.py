"""Twenty faults: each ends in the right sum or in an error that names it; earlier rows are kept.

`LIST` names the tests of each. The oracle is a plain float64 sum over the survivors.
"""

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]

# the faults of the list, and the tests that prove each: FILE::TEST, with the file relative to tests/
LIST = {
    "client dies before upload": ["fl/faults/test_silent_clients.py::test_clients_that_fall_silent_are_left_out"],
    "client dies between mask and unmask": [
        "fl/faults/test_silent_clients.py::test_whoever_masked_is_in_the_sum_though_it_dies_before_the_unmasking"
    ],
    "straggler past the deadline": [
        "fl/faults/test_silent_clients.py::test_stragglers_are_left_out_at_the_deadline_and_counted_before_it"
    ],
    "replayed update": [
        "fl/faults/test_messages.py::test_messages_that_go_wrong_cost_their_client_its_place",
        "fl/messages/test_signatures.py::test_what_was_right_before_is_left_out_now",
    ],
    "NaN or Inf": [
        "fl/faults/test_updates.py::test_updates_that_are_none_never_leave",
        "../privacy/testing/contract.py::test_what_is_not_finite_never_leaves",
    ],
    "zero-norm update": [
        "fl/faults/test_updates.py::test_a_zero_update_counts_as_such",
        "fl/faults/test_updates.py::test_a_zero_update_survives_clipping",
    ],
    "all weights zero": ["fl/faults/test_updates.py::test_weights_that_are_all_zero_end_the_run"],
    "wrong shape or dtype": [
        "fl/faults/test_updates.py::test_updates_that_are_none_never_leave",
        "../privacy/testing/contract.py::test_another_length_or_type_never_leaves",
    ],
    "fixed-point overflow": ["fl/faults/test_updates.py::test_what_passes_the_range_is_cut_and_counted"],
    "flipped ciphertext bit": [
        "fl/faults/test_messages.py::test_messages_that_go_wrong_cost_their_client_its_place",
        "privacy/secure_sums/he/test_fuzz.py::test_two_thousand_damaged_messages",
        "privacy/secure_sums/he/test_protocol.py::test_a_flipped_bit_in_the_sum",
    ],
    "truncated or concatenated ciphertext": [
        "fl/faults/test_messages.py::test_messages_that_go_wrong_cost_their_client_its_place",
        "privacy/secure_sums/test_message_fuzz.py::test_no_damaged_reply_is_taken_for_its_senders",
    ],
    "wrong key or parameters": [
        "privacy/secure_sums/he/test_ciphers.py::test_a_message_of_other_parameters_is_refused",
        "fl/keys/test_relayed.py::test_a_run_does_not_go_on_where_somebodys_keys_are_new",
    ],
    "more contributors than carry bits": [
        "fl/faults/test_updates.py::test_a_cohort_whose_sum_would_wrap_is_refused",
        "privacy/secure_sums/mpc/test_protocol.py::test_a_cohort_whose_sums_wrap_is_refused",
        "privacy/secure_sums/he/test_ckks.py::test_a_fixed_scale_that_could_wrap_is_refused_with_the_arithmetic",
        "privacy/secure_sums/test_fixed_point.py::test_what_is_refused",
    ],
    "a single client left": ["fl/faults/test_silent_clients.py::test_a_single_client_that_is_left_is_not_opened"],
    "server killed and resumed with its ledger": [
        "fl/whole_runs/test_retries.py::test_a_killed_server_goes_on_with_its_ledger",
        "experiments/sweeps/test_resume.py::test_a_killed_run_goes_on_and_ends_with_the_same_weights",
        "fl/test_ledger.py::test_a_killed_round_was_paid_for",
    ],
    "epsilon exhausted mid-run": [
        "experiments/test_spending.py::test_a_run_ends_before_the_round_that_would_pass_its_budget"
    ],
    "empty Poisson batch": [
        "privacy/mechanisms/dp_sgd/test_optimizers.py::test_an_empty_draw_between_two_others_changes_nothing_but_the_noise"
    ],
    "party or dealer killed, share tampered": [
        "fl/runtimes/parties/test_failures.py::test_a_fault_ends_the_round_with_an_error_that_names_it",
        "fl/runtimes/parties/test_aggregates.py::test_a_dealer_that_is_gone_is_named",
        "fl/runtimes/test_committee.py::test_a_keyholder_that_is_killed_ends_the_run_in_one_line",
        "privacy/secure_sums/secagg/test_protocol.py::test_a_wrong_share_ends_the_round_and_never_makes_a_sum",
    ],
    "CUDA out of memory, or a library missing": [
        "fl/faults/test_machines.py::test_a_cell_without_memory_lets_the_others_go_on",
        "fl/faults/test_machines.py::test_a_cell_without_its_library_lets_the_others_go_on",
        "fl/faults/test_machines.py::test_a_client_without_memory_is_left_out",
    ],
    "unauthenticated node, expired certificate, oversized or pickled payload": [
        "fl/runtimes/deployment/test_superlink.py::test_a_supernode_is_refused",
        "fl/runtimes/deployment/test_superlink.py::test_an_expired_certificate_is_named",
        "fl/runtimes/test_contract.py::test_messages_that_go_wrong_are_left_out_in_every_runtime",
        "fl/runtimes/test_resident.py::test_an_announced_length_takes_no_memory",
        "fl/messages/test_packing.py::test_objects_are_never_unpickled",
    ],
}


def test_each_fault_of_the_list_has_tests():
    assert len(LIST) == 20
    for reference in [one for tests in LIST.values() for one in tests]:
        file, _, name = reference.rpartition("::")
        text = (TESTS / file).read_text()
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), reference
