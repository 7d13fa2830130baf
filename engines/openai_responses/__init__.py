"""OpenAI's Responses, as clients speak it: every call that comes here carries its whole conversation."""
