"""HF8xx: the Hub, and serving.

HF80x the Hub and who may do what there, HF81x the model card and checkpoints, HF82x the folder that is pushed,
HF83x what must not be pushed, HF87x serving.
"""

from __future__ import annotations

from hf_finetune.codes.code import Code

HUB: dict[str, Code] = {
    "HF801": Code(
        "the Hub cannot be reached",
        "error",
        "HF_HUB_OFFLINE is set, there is no connection, or it is too slow for an answer to arrive whole. What is in "
        "the folders of this machine is as it was.",
        "look at the connection and at HF_ENDPOINT, or unset HF_HUB_OFFLINE; what is on this machine needs no Hub",
    ),
    "HF802": Code(
        "there is no Hugging Face token, or it does not allow this",
        "error",
        "The Hub takes pushes, and gives private and gated files, only with a token that allows it. A run that is to "
        "be pushed asks before it trains.",
        "log in with `hf auth login` or set HF_TOKEN; a token for pushes needs write access to the repository",
    ),
    "HF803": Code(
        "the account may not write to the repository, or make one for its owner",
        "error",
        "A repository belongs to a user or an organization, who decide who may write there.",
        "name a repository of your own, or ask its owner or the administrators of the organization",
    ),
    "HF804": Code(
        "the repository is public, and the push was not to be",
        "error",
        "Everybody could read the model at once, with what it has learned of its rows, and what was public cannot be "
        "taken back.",
        "allow it with --public (run file: hub.private: false), or name another repository",
    ),
    "HF805": Code(
        "a repository that was there already stays private",
        "warning",
        "A push changes no rights: the model is there, and others cannot see it.",
        "make it public in its settings on the Hub",
    ),
    "HF806": Code(
        "there is no such repository, or the token may not see it",
        "error",
        "The Hub gives the same answer to both, so that they cannot be told apart from here.",
        "check the name, and what the token may see; a pull request needs a repository that is there",
    ),
    "HF807": Code(
        "the answer of the Hub is not understood",
        "error",
        "A proxy, a login page or another server may have answered in its place, so that nobody knows whether "
        "anything was done.",
        "look whether the address in the message is that of the Hub, and whether the commit is there",
    ),
    "HF808": Code(
        "the Hub refuses a request",
        "error",
        "The request has arrived and is not taken as it stands: others write to the repository, a file is too large, "
        "or too much was asked in a short time.",
        "do what the message says, then push again",
    ),
    "HF809": Code(
        "the Hub has trouble of its own",
        "error",
        "Its servers answered with an error for longer than requests are repeated. The model and the settings are no "
        "cause of it.",
        "push again later",
    ),
    "HF810": Code(
        "files did not arrive on the Hub as they were sent",
        "error",
        "A .gitignore or .gitattributes in the repository can leave files out without an error, and the model there "
        "could not be loaded, or would be another one.",
        "change these files in the repository, and push again",
    ),
    "HF811": Code(
        "there is no model card",
        "error",
        "A model without one says neither what it is for nor what it was trained on, so that nobody can judge it.",
        "write README.md: what the model is for, what it was trained on, what it cannot do",
    ),
    "HF812": Code(
        "the metadata of the model card cannot be read",
        "error",
        "The Hub reads the license, the language and the base model between the dashes at the top of README.md, and "
        "takes none of them from what is no YAML.",
        "mend the lines between the dashes",
    ),
    "HF813": Code(
        "the model card says no license",
        "error",
        "Without one nobody knows what they may do with the model.",
        "give --license, or set card.license in the run file; `unknown` can be said as well",
    ),
    "HF814": Code(
        "weights whose owner asks for terms to be accepted are not published",
        "error",
        "The owner of the base model gives it only to those who accept its terms, and a public copy would pass them "
        "by.",
        "push without --public, push the adapter instead, or say with --license what the terms allow",
    ),
    "HF815": Code(
        "a checkpoint was not pushed",
        "warning",
        "Training goes on, and the checkpoint stays in its folder here. A later checkpoint, and the model at the end "
        "of the run, are pushed in their turn.",
        "see what the message says of the Hub, or of the checkpoint",
    ),
    "HF821": Code(
        "a file of the model or of its run is torn, or malformed",
        "error",
        "It can be neither compared with what the run wrote nor cleared of secrets and paths, so nothing is pushed.",
        "put it back as it was written, or save the model again",
    ),
    "HF822": Code(
        "a file is not what the run wrote",
        "error",
        "The card and the report tell of the files that the run left: beside others their figures would be false.",
        "put the file back, or take manifest.json and report.json out of the folder",
    ),
    "HF823": Code(
        "code in the folder is not that of hf-finetune",
        "error",
        "Whoever loads the model with its code would run it, and trusts that it is ours.",
        "take it out: a push brings the code of this version along where a model needs it",
    ),
    "HF824": Code(
        "a file that would be pushed is a link, no regular file, or too large",
        "error",
        "A link may lead to any file of this machine, which would then be on the Hub; pages and records are read "
        "whole, and a pipe or an endless file never ends.",
        "put the file itself in its place, or take it out",
    ),
    "HF825": Code(
        "chat templates are not pushed because of their names",
        "warning",
        "Only plain names are pushed, since others may mean something else on another machine; the model on the Hub "
        "lacks these templates.",
        "name them with letters, digits, `.`, `_` and `-` alone",
    ),
    "HF826": Code(
        "the base of the adapter is a folder of this machine",
        "warning",
        "An adapter alone is no model: others cannot load it, since its base is nowhere that they can reach.",
        "push the base and train on its Hub id, or push the model of `hf-finetune merge`",
    ),
    "HF831": Code(
        "what is to be pushed holds a secret",
        "error",
        "Whoever may read the repository could use the key, token or password, and its history keeps what is taken "
        "out later.",
        "take it out, and make it invalid where it was issued",
    ),
    "HF832": Code(
        "what is to be pushed names a folder of this machine",
        "error",
        "Such a path tells the name of a user and how the machine is laid out, and leads nowhere for others.",
        "write the path as others have it, or take it out",
    ),
    "HF833": Code(
        "a weight of the model is NaN or infinite",
        "error",
        "Whoever loads the model gets NaN for every text, and nothing says why.",
        "push a checkpoint from before that, or train again with a lower train.learning_rate",
    ),
    "HF834": Code(
        "weights are missing from the adapter",
        "error",
        "Each weight A of LoRA works through its weight B: with one of the two the adapter is not what was trained.",
        "save the adapter again",
    ),
}

# Beside the Hub: what is on its way to others by HTTP.
SERVING: dict[str, Code] = {
    "HF871": Code(
        "the server cannot listen at its address",
        "error",
        "Another program listens at this port, or the address is none of this machine. That is looked at before a "
        "model is loaded, which takes minutes.",
        "name another port by --port, or an address of this machine by --host",
    ),
    "HF872": Code(
        "a server that others can reach has no key",
        "error",
        "Whoever reaches a server could use the model and take up the machine. On 127.0.0.1 only this machine does.",
        "put a key into a file, named by --api-key-file, or into HF_FINETUNE_API_KEY; or leave --host out",
    ),
    "HF873": Code(
        "the key of a server cannot be used",
        "error",
        "A short key is guessed, and one with blanks or line breaks does not arrive as it is in a header.",
        "make one: openssl rand -hex 32 > key.txt",
    ),
    "HF874": Code(
        "adapters cannot be served over one base",
        "error",
        "Adapters are switched over one model in memory, which has one precision, one vocabulary, and weights that no "
        "adapter changes.",
        "serve them apart, each at a port of its own, or merge one first",
    ),
    "HF875": Code(
        "a filter of a server cannot be used",
        "error",
        "A filter is a list with a word or phrase a line, or a classifier with the labels that it refuses. One that "
        "refuses nothing would only seem to protect.",
        "write --filter WORDS.txt, or --filter RUN=LABEL with a label of that classifier",
    ),
    "HF876": Code(
        "a model does not generate step by step as it does at once",
        "error",
        "The server generates a token of each answer at every step. Before it lets anybody in it compares a few steps "
        "with `hf-finetune generate`, and serves no model for which they differ.",
        "use `hf-finetune generate` for it, and report the architecture",
    ),
    "HF877": Code(
        "the file of votes holds something else",
        "error",
        "Votes are added to what is there, and all of them count. Of other lines nobody knows what they say.",
        "name a new file, or one that this command has written",
    ),
    "HF878": Code(
        "other servers do not know the architecture",
        "error",
        "A ScratchGPT is a model of this project: vLLM and TGI load published architectures alone.",
        "export it as one of those first, or serve it here",
    ),
    "HF879": Code(
        "the server has failed at a request",
        "error",
        "A fault of this program: whoever asked is told that there was one, the log says where it stands, and no "
        "word of what was asked, and other requests are answered.",
        "report it with these lines of the log",
    ),
}
