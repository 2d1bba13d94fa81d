"""HTTP in front of the engine: OpenAI's API, the seeds' /generate, /classify, the page.

application     what is answered at which path
guards          who is let in, and with how much
errors          a refusal, in OpenAI's form
schemas         what may be asked
field_messages  what is said of a field that cannot be taken
service         what all requests share: models, filters, counts
answers         the events of the answers to one request
streams         answers that are sent as they are made
chat            /v1/chat/completions
completions     /v1/completions and /generate
logprobs        the probabilities of tokens, in OpenAI's two forms
classify        /classify
comparisons     two models side by side, and votes
"""
