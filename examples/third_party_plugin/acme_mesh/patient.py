"""The retry strategy ``acme-patient``: equal waits, until a total time since the connection came is spent."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import IRetryStrategy, IRetryStrategyFactory, PluginContext
from tcpmesh.values import Duration, RetryContext


def _check_positive(_instance: object, attribute: attrs.Attribute[Duration], value: Duration) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be longer than nothing")


@attrs.frozen
class PatientSettings:
    """Attempts every ``wait`` after a failure, none that would begin later than ``total`` after the connection."""

    wait: Duration = attrs.field(default=Duration(0.5), validator=_check_positive)
    total: Duration = attrs.field(default=Duration(10.0), validator=_check_positive)


@implementer(IRetryStrategy)
class Patient:
    """Retries while there is time."""

    def __init__(self, settings: PatientSettings) -> None:
        self._settings = settings

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """One more as long as it begins in time; ``context.elapsed`` is up to date at each question."""
        while context.elapsed + self._settings.wait <= self._settings.total:
            yield self._settings.wait


@implementer(IRetryStrategyFactory)
class PatientFactory:
    """Makes patient strategies."""

    name = "acme-patient"
    description = "equal waits until a total time is spent"
    settings = PatientSettings

    def create(self, settings: PatientSettings, context: PluginContext) -> Patient:
        """Make the strategy of one service."""
        return Patient(settings)
