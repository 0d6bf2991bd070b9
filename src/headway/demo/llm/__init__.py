"""`headway demo llm`: real LLM engines behind the gateway, measured, simulated, and sent a trace."""
