"""What work costs: measured service times per stage, variant, hardware and batch size."""

from headway.profile.overheads import Overheads
from headway.profile.profile import Profile, RecordedVisits, Row
from headway.profile.service import ServiceTime

__all__ = ["Overheads", "Profile", "RecordedVisits", "Row", "ServiceTime"]
