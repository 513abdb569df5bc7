"""The policy service: Postfix's delegation protocol and Exim's one-line form."""
