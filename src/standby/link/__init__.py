"""What an agent and its vault say to each other, and what an agent is asked to do. No effects."""
