"""What a decoded row is held against.

conversations.py    roles in order, answers not empty
labels.py           one type of label
message_fields.py   what a message may hold, by name
"""
