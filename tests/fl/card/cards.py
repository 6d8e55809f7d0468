"""The cards of secure sums, whole, as literals: configurations, and every sentence that each of them must say."""

# ---- what several cards say

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
REPORTED = "Clients report the times and the memory of their phases (runtime.client_metrics=true), beyond any epsilon."
MODELS = "The models themselves tell of the data whatever epsilon, or its absence, allows."
LIES = "A client that lies about a hidden update or weight is not found out by the sum."
STRANGERS = "A roster keeps strangers out, not several of its clients who subtract their updates from a sum."
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
UNCOVERED = {COSTS, ABSENCE, REPORTED}  # of a run with an epsilon
WITNESSED = {LOOKS, ALARMS, ENDS}
HIDDEN = {
    *OPEN,
    TIMES,
    LIES,
    STRANGERS,
    TWO_ROUNDS,
    CRAFTED,
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

# ---- the cards: what is overridden, and the whole card

MEDIAN = ("secure_sum=crypten", "secure_sum/aggregate=median", "training.weighting=uniform")
CKKS = "secure_sum=ckks"
DEPLOYED = ("secure_sum=pad", "runtime=deployment", "clients=3")
LAB = "runtime.federation=lab"
CARDS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "plain": ((), {*PLAIN, WEIGHTS}),
    "public weights": (
        ("training.public_weights=true",),
        {*PLAIN, "Weights tell how many examples a client holds, declared public (training.weighting=examples)."},
    ),
    "plain over one": (("server.min_contributors=1",), {*PLAIN, WEIGHTS}),
    "pad": (("secure_sum=pad",), {*HIDDEN, *PAD, SIMULATION}),
    "pad of clients": (
        ("secure_sum=pad", "secure_sum.keys=clients"),
        {
            *HIDDEN,
            SIMULATION,
            "The server and any client do not collude.",
            "Each client holds the key of its own mask (the client that is elected to open: the keys of all masks).",
            "The server sees protected messages, and the sum.",
            "Any one client sees the sum.",
            "The server and any one client together read one client's update.",
            SUBTRACTED,
            WITHOUT_OPENER,
        },
    ),
    "unwitnessed": (
        ("secure_sum=pad", "witness=false"),
        {
            *(HIDDEN - WITNESSED),
            *PAD,
            SIMULATION,
            "Nobody looks at what clients send (witness=false): protection that is not switched on goes unnoticed.",
        },
    ),
    "over one": (
        ("secure_sum=pad", "server.min_contributors=1", "server.min_share=0.1"),
        {
            *(HIDDEN - {AMONG_TWO}),
            *(PAD - {SUBTRACTED, "The server and the keyholder together read one client's update."}),
            SIMULATION,
            "The server alone reads one client's update.",
            "A sum over one client alone is opened, which is its update (server.min_contributors=1).",
        },
    ),
    "measured": (
        ("secure_sum=pad", "runtime.measure_sum_error=true"),
        {
            *(HIDDEN | PAD | {SIMULATION})
            - {
                "The server and the keyholder do not collude.",
                "The server and the keyholder together read one client's update.",
                SUBTRACTED,
            },
            "A test: the server is told every client's contribution.",
            "Clients send their contributions in the clear, to measure the error of the sum "
            "(runtime.measure_sum_error=true): the secure sum protects nothing.",
            "The server alone reads one client's update.",
        },
    ),
    "deployment": (
        (*DEPLOYED, "runtime.client_metrics=false"),
        {
            *(HIDDEN - {TIMES}),
            *PAD,
            "All roles are processes of one user on one machine, who can read all keys (runtime.federation=null).",
        },
    ),
    "federation": (
        (*DEPLOYED, LAB),
        {
            *HIDDEN,
            *PAD,
            "Whoever hands out the roster could put keys of their own on it: its SHA-256 is to be compared.",
        },
    ),
    "relayed": (
        (*DEPLOYED, LAB, "runtime.roster=relayed"),
        {
            *(HIDDEN - {STRANGERS}),
            *(PAD - {"The server and the keyholder do not collude."}),
            "The server is passive and relays public keys as they are: the server and the keyholder do not collude.",
            "A server that exchanges keys alone reads one client's update.",
            "Public keys came through the server, so this protects against a passive server only: one that exchanges "
            "keys reads every update (runtime.roster=relayed).",
            "Nothing keeps one party from posing as many clients.",
        },
    ),
    "ckks": (
        (CKKS,),
        {
            *HIDDEN,
            *KEYHOLDER,
            SIMULATION,
            KEY_BY_CLIENT,
            "The keyholder holds the secret key and the keys of all masks.",
            "Each client holds the key of its own mask.",
        },
    ),
    "ckks unmasked": (
        (CKKS, "secure_sum.masks=false"),
        {
            *HIDDEN,
            *UNMASKED,
            SIMULATION,
            "Noise hides the key of a round in its opened sum, to 2^-30 (secure_sum.flooding_bits).",
        },
    ),
    "ckks unflooded": (
        (CKKS, "secure_sum.masks=false", "secure_sum.flooding_bits=0"),
        {*HIDDEN, *UNMASKED, SIMULATION, TELLS_KEY},
    ),
    "flare": (
        ("privacy=flare",),
        {
            *HIDDEN,
            *ANY_CLIENT_OPENS,
            SIMULATION,
            "The server follows the protocol, and the server and any client do not collude.",
            "The server sees protected messages, and the sum.",
            "A server that breaks the protocol alone reads one client's update.",
        },
    ),
    "fedml_he": (
        ("privacy=fedml_he",),
        {
            *(HIDDEN - {TIMES}),
            *ANY_CLIENT_OPENS,
            SIMULATION,
            "The server follows the protocol, and the server and any client do not collude, and 0.9 of each update is "
            "in the clear.",
            "The server sees 0.9 of each update, and the sum.",
            "The server alone reads a part of one client's update.",
            "The server sees 0.9 of the values of each client's update, and which they are; the others were chosen by "
            "the clients' sensitivities (secure_sum.encrypt_fraction=0.1).",
            "Of the sum of the clients' sensitivities the client that opens a sum learns all, and the server which are "
            "the largest.",
        },
    ),
    "a part under bfv": (
        ("secure_sum=bfv", "secure_sum.encrypt_fraction=0.25"),
        {
            *(HIDDEN - {TIMES}),
            SIMULATION,
            WITHOUT_KEYHOLDER,
            "The server and the keyholder do not collude, and 0.75 of each update is in the clear.",
            "The keyholder holds the secret key and the keys of all masks.",
            "Each client holds the key of its own mask.",
            "The keyholder sees the sum.",
            KEY_BY_CLIENT,
            "The server sees 0.75 of each update, and the sum.",
            "The server alone reads a part of one client's update.",
            SUBTRACTED,
            "The server sees 0.75 of the values of each client's update, and which they are; the others were chosen at "
            "random, the same ones in every round (secure_sum.encrypt_fraction=0.25).",
        },
    ),
    "crypten": (("secure_sum=crypten",), {*HIDDEN, *PARTIES, NO_DEALER, ALL_PARTIES, ON_THE_MACHINE, SIMULATION}),
    "tunnel": (
        ("secure_sum=crypten", "secure_sum.rendezvous=tcp://10.0.0.1:5000", "secure_sum.tunnel=wg0"),
        {
            *HIDDEN,
            *PARTIES,
            NO_DEALER,
            ALL_PARTIES,
            SIMULATION,
            "Messages between the parties are not encrypted: they go through the tunnel wg0.",
        },
    ),
    "median": (MEDIAN, {*UNWEIGHTED, *PARTIES, *DEALT, SIMULATION}),
    "median dealt by a party": (
        (*MEDIAN, "secure_sum.insecure_provider=true"),
        {
            *UNWEIGHTED,
            *PARTIES,
            ON_THE_MACHINE,
            SIMULATION,
            "Party/0 is trusted: it deals, and could read every update (secure_sum.insecure_provider=true).",
            "Party/0 alone reads one client's update.",
            "Party/0 deals for all parties, and could read every update (secure_sum.insecure_provider=true).",
        },
    ),
    "norm_bounded": (
        ("privacy=crypten_norm_bounded",),
        {
            *HIDDEN,
            *PARTIES,
            *DEALT,
            SIMULATION,
            "The total weight tells how many contributions kept to the norm: the others are left out, so what is "
            "opened may hold fewer than the least number, even one alone.",
        },
    ),
    "secagg": (
        ("secure_sum=secagg", "clients=10"),
        {
            *(HIDDEN - {AMONG_TWO}),
            AMONG.format(5),
            *NEIGHBOURS,
            *OF_TEN,
            WRONG_SERVER,
            SIMULATION,
            "The server does not collude with 4 of a client's 9 neighbours.",
            "The server and 4 of a client's 9 neighbours together read one client's update.",
        },
    ),
    "secagg curious": (
        ("secure_sum=secagg", "clients=10", "secure_sum.server=curious"),
        {
            *(HIDDEN - {AMONG_TWO}),
            AMONG.format(5),
            *NEIGHBOURS,
            *OF_TEN,
            AGAIN,
            SIMULATION,
            "The server follows the protocol, and the server does not collude with 6 of a client's 9 neighbours.",
            "The server and 6 of a client's 9 neighbours together read one client's update.",
        },
    ),
    "secagg on a graph": (
        ("secure_sum=secagg", "clients=100"),
        {
            *(HIDDEN - {AMONG_TWO}),
            AMONG.format(50),
            *NEIGHBOURS,
            SIMULATION,
            "The server does not collude with 6 of a client's 66 neighbours.",
            "The server and 6 of a client's 66 neighbours together read one client's update.",
            f"{GONE} Its masks are removed with the shares of 36 neighbours.",
            "It takes 36 neighbours where the server follows the protocol.",
            "Of a cohort of 100, 70 must be left, or the round is refused.",
            "A server that colludes with clients can try keys until a graph suits it: a try succeeds with probability "
            "2^-40 at most (secure_sum.collusion_rate=0.05).",
        },
    ),
    "secagg of one": (
        ("secure_sum=secagg", "clients=1", "server.min_contributors=1"),
        {
            *(HIDDEN - {AMONG_TWO}),
            SIMULATION,
            "The server is trusted: a cohort of one client has nobody to hide among.",
            "The server sees each client's update.",
            "The server alone reads one client's update.",
            GONE,
            "A sum over one client alone is opened, which is its update (server.min_contributors=1).",
            "Of a cohort of 1, 1 must be left, or the round is refused.",
            "Any client can end a round with a wrong share.",
        },
    ),
}
