"""Tells tcpmesh of the policy. Every twistd on the machine imports this: import nothing else here."""

from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import AUTHORIZATION

team_hours = PluginDescriptor(
    AUTHORIZATION, "team-hours", "each team at its own hours", "team_hours.policy:TeamHoursFactory"
)
