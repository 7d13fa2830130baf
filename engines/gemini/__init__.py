"""Google's Gemini API (generateContent), as the provider speaks it."""
