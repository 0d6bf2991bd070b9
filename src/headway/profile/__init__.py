"""What work costs: measured service times per stage, variant, hardware and batch size."""

from headway.profile.profile import Profile, Row, ServiceTime

__all__ = ["Profile", "Row", "ServiceTime"]
