"""The vault: who is protected where, jobs, policies, users. Knows no hypervisor and touches no replica's data."""
