"""standby: site recovery for virtual machines. See docs/architecture.md."""

__version__ = "0.1.0"
