"""Sentences that several threat cards say, as literals, alone and in sets."""

SIMULATION = "This is a simulation: one party plays all roles and holds all keys."
GONE = "A client that drops out is left out of the round."
WITHOUT_KEYHOLDER = f"{GONE} Without the keyholder a round fails."
WITHOUT_OPENER = f"{GONE} Without the client that was elected to open, a round fails."
WITHOUT_PARTY = f"{GONE} The loss of a party ends the run."
AMONG_TWO = "Nothing is opened over fewer than 2 clients (server.min_contributors)."
AMONG = "Nothing is opened over fewer than {} clients (server.min_share)."
SUBTRACTED = "The server and 1 of the clients in a sum together read one client's update."
TWO_ROUNDS = (
    "A server that gives two rounds the same model and other clients reads the difference of their sums: "
    "the noise of a mechanism alone limits that."
)
ONE_MODEL = (
    "A server that gives one client of a round another model than the others, whose updates it makes zero, "
    "alone reads that client's update from the sum: the noise of a mechanism alone limits that."
)
CRAFTED = (
    "A server that breaks the protocol chooses the models: a sum over weights that few examples move tells of these "
    "examples, and the noise of a mechanism alone limits that."
)
WEIGHTS = "Weights tell how many examples a client holds, not declared public (training.weighting=examples)."
WHEN = "Who takes part in which round, and when each answers, is in sight of the server."
TIMES = "Clients report the times of their phases, and how many values were cut (runtime.client_metrics=true)."
COSTS = "Times and peaks of memory in the results depend on the data, and no epsilon covers them."
ABSENCE = "Who drops out, and the reason that a client gives, stand in the results, and no epsilon covers them."
READ = (
    "A digest of the data, and the numbers of its examples and labels, stand beside the results (data.json, for its "
    "owner alone), and no epsilon covers them."
)
REPORTED = "Clients report the times and the memory of their phases (runtime.client_metrics=true), beyond any epsilon."
MODELS = "The models themselves tell of the data whatever epsilon, or its absence, allows."
LIES = "A client that lies about a hidden update or weight is not found out by the sum."
STRANGERS = "A roster keeps strangers out, not several of its clients who subtract their updates from a sum."
CUT = "Values of an update beyond 1 are cut (secure_sum.bound)"
COUNTED = f"{CUT}: from 0.1% of a round's on it is said, and from 10% of most clients' on the run ends."
UNCOUNTED = f"{CUT}, and nobody counts them, as no epsilon would cover that."
LOOKS = (
    "Each client looks at its upload before it leaves: protection that is absent, even from 10 values in a row of 17 "
    "bytes or more (zeros aside), or that is the client's last one again, stops the run."
)
ALARMS = (
    "Shorter runs of values, a mask that several clients share and weak seeds go unnoticed; a false alarm has a "
    "probability of at most 1e-09."
)
ENDS = "Any client can end the run by saying that it saw something."

OPEN = {WHEN, MODELS}
UNCOVERED = {COSTS, ABSENCE, READ, REPORTED}  # of a run with an epsilon
WITNESSED = {LOOKS, ALARMS, ENDS}
HIDDEN = {
    *OPEN,
    TIMES,
    LIES,
    STRANGERS,
    TWO_ROUNDS,
    CRAFTED,
    COUNTED,
    *WITNESSED,
    AMONG_TWO,
    WEIGHTS,
}  # of a sum that hides, weighted by examples
UNWEIGHTED = HIDDEN - {WEIGHTS}
TRUSTED = {
    "The server is trusted: it sees every client's update.",
    "The server sees each client's update.",
    GONE,
    SIMULATION,
    *OPEN,
}
PLAIN = {*TRUSTED, "The server alone reads one client's update."}
KEYHOLDER = {
    "The server and the keyholder do not collude.",
    "The server and the keyholder together read one client's update.",
    SUBTRACTED,
    "The server sees protected messages, and the sum.",
    "The keyholder sees the sum.",
    WITHOUT_KEYHOLDER,
}
KEY_BY_CLIENT = (
    "The server and a client together can learn the secret key from an opened sum, as nobody checks what that client "
    "encrypts: the masks alone then hide the updates of the others."
)
MASK_KEYS = {"The keyholder holds the keys of all masks.", "Each client holds the key of its own mask."}
PAD = {*KEYHOLDER, *MASK_KEYS}
UNMASKED = {
    "The server follows the protocol, and the server and the keyholder do not collude.",
    "The keyholder holds the secret key.",
    "The server sees protected messages, and the sum.",
    "The keyholder sees the sum.",
    "A server that breaks the protocol alone reads one client's update.",
    WITHOUT_KEYHOLDER,
    "Nothing is masked (secure_sum.masks=false): the keyholder decrypts whatever the server sends it.",
}
TELLS_KEY = "An opened sum tells the server the secret key of its round (secure_sum.flooding_bits=0)."
ANY_CLIENT_OPENS = {
    "Each client holds the secret key.",
    "Any one client sees the sum.",
    WITHOUT_OPENER,
    "Nothing is masked (secure_sum.masks=false): the client that opens a sum decrypts whatever the server sends it.",
    TELLS_KEY,
    "Every client opens the sum (secure_sum.broadcast=true).",
}
PARTIES = {
    SUBTRACTED,
    "Each party holds one additive share of each update.",
    "The server sees sealed boxes, and the opened result.",
    "Each party sees the opened result.",
    WITHOUT_PARTY,
    "The parties are assumed to follow the protocol: security is passive.",
    "The parties learn each round's total, too.",
}
NO_DEALER = "Not all 3 parties collude (any 2 may, with the server)."
ALL_PARTIES = "Party/0 and party/1 and party/2 together read one client's update."
ON_THE_MACHINE = "Messages between the parties are not encrypted: they stay on the machine."
DEALT = {
    "Not all 3 parties collude (any 2 may, with the server), and the dealer "
    "colludes with none of them, nor with the server.",
    "The dealer holds the correlated randomness that products consume.",
    ALL_PARTIES,
    "The dealer and any one party together read one client's update.",
    "The dealer and the server together read one client's update.",
    "A dealer that deals wrong values can have one client's update opened in place of the result.",
    "The dealer can read every client's update with the help of any one party or of the parties' messages.",
    ON_THE_MACHINE,
}
NEIGHBOURS = {
    "Each client holds the keys of its own masks, and a share of each neighbour's keys.",
    "The server sees masked vectors, the keys of clients that dropped out, and the sum.",
    "Any client can end a round with a wrong share.",
}
OF_TEN = {
    f"{GONE} Its masks are removed with the shares of 7 neighbours.",
    "Of a cohort of 10, 7 must be left, or the round is refused.",
}
AGAIN = (
    "A round that is interrupted while its sum is opened, and tried again without some of its clients, may tell the "
    "server the difference of two sums."
)
WRONG_SERVER = "It takes 6 neighbours where the server follows the protocol."
OF_ONE = "Each coordinate of the result is the value of one client, or the mean of two; nobody learns whose."
