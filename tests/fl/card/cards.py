"""The cards of secure sums, whole, as literals: configurations, and every sentence that each of them must say."""

from tests.fl.card.sentences import (
    AGAIN,
    ALL_PARTIES,
    AMONG,
    AMONG_TWO,
    ANY_CLIENT_OPENS,
    DEALT,
    GONE,
    HIDDEN,
    KEY_BY_CLIENT,
    KEYHOLDER,
    NEIGHBOURS,
    NO_DEALER,
    OF_ONE,
    OF_TEN,
    ON_THE_MACHINE,
    PAD,
    PARTIES,
    PLAIN,
    SIMULATION,
    STRANGERS,
    SUBTRACTED,
    TELLS_KEY,
    TIMES,
    UNMASKED,
    UNWEIGHTED,
    WEIGHTS,
    WITHOUT_KEYHOLDER,
    WITHOUT_OPENER,
    WITNESSED,
    WRONG_SERVER,
)

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
    "median": (MEDIAN, {*UNWEIGHTED, *PARTIES, *DEALT, OF_ONE, SIMULATION}),
    "trimmed_mean": (
        ("privacy=crypten_trimmed_mean", "clients=10"),
        {
            *(UNWEIGHTED - {AMONG_TWO}),
            *(PARTIES - {SUBTRACTED}),
            *DEALT,
            SIMULATION,
            "A coordinate of the result can be the mean over 4 clients; nobody learns whose.",
            "The server and 7 of the clients in a sum together read one client's update.",
            "Nothing is opened over fewer than 8 clients (server.min_contributors).",
        },
    ),
    "median dealt by a party": (
        (*MEDIAN, "secure_sum.insecure_provider=true"),
        {
            *UNWEIGHTED,
            *PARTIES,
            OF_ONE,
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
            "The parties learn how many contributions keep to the norm, and open nothing over fewer than the least "
            "number.",
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
