"""Between text, commands and tokens: templates, parsers, prompts as token ids, turns as token rows."""
