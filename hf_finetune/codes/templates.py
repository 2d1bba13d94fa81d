"""HF13x to HF19x, of HF1xx (lengths, tokens and chat templates): chat templates."""

from __future__ import annotations

from hf_finetune.codes.code import Code

TEMPLATES: dict[str, Code] = {
    "HF131": Code(
        "a chat template exceeds a limit",
        "error",
        "A template is a program that comes with a model: one that takes too long, or writes too much, stops a run.",
        "look into it, and trust it by its hash in data.trust_chat_template if it is yours",
    ),
    "HF132": Code(
        "a chat template that cannot be compiled",
        "error",
        "It is not valid Jinja, or is nested too deep for it, so that no conversation can be written with it.",
        "mend the line that the message names, or name another template in data.chat_template",
    ),
    "HF133": Code(
        "a setting of the chat template that would have no effect",
        "error",
        "The template does not need it or never reads it, or there is none that does. A run that goes on differs from "
        "what was asked for, and nothing in its results says so.",
        "leave it out, correct its name, or name a template that reads it in data.chat_template",
    ),
    "HF134": Code(
        "another chat template than the one that is trusted",
        "error",
        "A template is a program that comes with a model, and trust holds for one text alone: this one has changed,"
        " or belongs to another model.",
        "read the template, and write its sha256 where it is yours, or leave data.trust_chat_template out",
    ),
    "HF135": Code(
        "a chat template that is named is not there",
        "error",
        "Another template would put other tokens around the turns than those that were meant.",
        "name a .jinja file that is there, or one of the templates that come with hf-finetune",
    ),
    "HF136": Code(
        "a text in a setting spells a control token",
        "error",
        "This text becomes a part of the chat template, and what it spells would end or open a turn in every row.",
        "write it in other words",
    ),
    "HF137": Code(
        "a chat template of another family than the model's own",
        "warning",
        "The model has learned to answer between the tokens of its own template, and has to unlearn them: that "
        "takes many rows, and what it could do before suffers.",
        "leave data.chat_template out, unless the model is to change its format",
    ),
    "HF138": Code(
        "only a clock bounds chat templates on this system",
        "warning",
        "The system lets no process limit its own memory or processor time, so that a hostile template can take "
        "more of the machine before it is stopped.",
        "nothing has to be done for templates that you trust; for others take a system that does, such as Linux",
    ),
    "HF139": Code(
        "the process for chat templates, or for a tokenizer's patterns, does not start",
        "error",
        "Templates and unknown patterns come from others, and are tried in a process of their own or not at all.",
        "see whether the machine lets Python start another Python: limits of processes or memory, or a sandbox, may"
        " forbid it",
    ),
    "HF141": Code(
        "the chat template refuses a conversation, or fails on it",
        "error",
        "Templates refuse orders of roles, system messages or contents that their model does not know. A row that "
        "was bent until it fits would teach something else than it says.",
        "change the row as the reason in the message says, or name another template in data.chat_template",
    ),
    "HF142": Code(
        "the chat template leaves out what a message says",
        "error",
        "The row looks trained, and the model never sees this text; many templates drop fields that they do not "
        "know in silence.",
        "put what is said into `content` as a string, or name a template in data.chat_template that writes it",
    ),
    "HF143": Code(
        "the chat template ends no answer with a token of the tokenizer",
        "error",
        "A model that is trained so never learns to stop, and goes on until its answers are cut off.",
        "name the template of this model, or one whose tokens its tokenizer has, in data.chat_template",
    ),
    "HF144": Code(
        "the chat template writes a turn otherwise once later ones follow",
        "error",
        "In training the turn would stand there in one form, and in a chat it is generated in another: what is "
        "learned would not be what is used.",
        "name another template in data.chat_template, or train the last answer of each conversation alone with "
        "data.loss_on: last",
    ),
    "HF145": Code(
        "the arguments of a tool call cannot be read",
        "error",
        "The template needs them as an object, and they are a text that is no JSON, or JSON that no program reads "
        "back.",
        "write the arguments as a JSON object, or as a text that holds one",
    ),
    "HF146": Code(
        "the text of a row would act as a control token",
        "error",
        "Who writes into the rows, or into a chat, could end a turn or speak as somebody else. This template takes "
        "off the marks that keep text apart, or cannot be tried with neutral texts.",
        "change the row, or name a template in data.chat_template that writes texts as they are",
    ),
    "HF147": Code(
        "the weight of a message is neither 0 nor 1",
        "error",
        "A message is trained or it is not; a weight between the two would be rounded without a word.",
        "write `weight: 0` or `weight: 1`, or leave it out",
    ),
    "HF148": Code(
        "the chat template writes other control tokens for certain words",
        "warning",
        "It looks for these words in texts and changes the turns for them, as its author meant it; in your rows "
        "they may be there by chance.",
        "look at such a row with `hf-finetune tokens RUN.yaml FILE:LINE`, and change the words where they mean nothing",
    ),
    "HF149": Code(
        "prompts and completions are taken without the chat template",
        "warning",
        "The commands generate and chat ask a model under its template, which it has then never been trained with.",
        "map the two fields to `question` and `answer` with data.columns, or name a template in data.chat_template",
    ),
}
