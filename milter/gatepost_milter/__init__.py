"""The milter service that the MTA talks to, and `milterctl`, the command for administrators."""
