"""OpenAI's Responses, as clients speak it: stateless, every call carries its whole conversation."""
