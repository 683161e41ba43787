"""
What holds for every plugin, whatever its kind: the base of the contracts.

Public. A contract is a mixin of tests: inherit it together with a TestCase, say how to make the factory, and every
``test_`` method of it runs against the plugin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tcpmesh.config.hints import UnreadableTypeError, alternatives, schema
from tcpmesh.interfaces import IPluginFactory, PluginContext, PluginKind
from tcpmesh.testing.making import plugin_context

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object  # trial would run a TestCase that it finds here

__all__ = ["PluginContract"]


class PluginContract(_Base):
    """
    The points that all kinds share.

    An author overrides ``make_factory``, and ``make_settings`` when the settings have no defaults. The clock that the
    plugin gets is ``self.clock``.
    """

    kind: ClassVar[PluginKind]

    def setUp(self) -> None:
        """Give each test a clock of its own, which stands still until it is advanced."""
        super().setUp()
        self.clock = Clock()

    def make_factory(self) -> IPluginFactory:
        """Override: the factory under test."""
        raise NotImplementedError(f"{type(self).__name__} must override make_factory")

    def make_settings(self) -> Any:
        """Override when settings have no defaults: an instance of the factory's settings class."""
        return self.make_factory().settings()

    def make_context(self) -> PluginContext:
        """What the plugin is created with."""
        return plugin_context(clock=self.clock)

    def create(self) -> Any:
        """Make the plugin under test."""
        return self.make_factory().create(self.make_settings(), self.make_context())

    def check(self, condition: object, message: str) -> None:
        """Fail with these words, and no others, unless the condition holds."""
        if not condition:
            raise self.failureException(message)

    def test_factory_provides_its_interface(self) -> None:
        """The factory has every attribute and method of its interface."""
        verifyObject(self.kind.factory, self.make_factory())

    def test_name_can_be_written_in_a_configuration(self) -> None:
        """The name is one word of small letters, digits and hyphens."""
        name = self.make_factory().name
        self.check(re.fullmatch(r"[a-z][a-z0-9-]*", name), f"{name!r} is not such a word")

    def test_description_is_one_line(self) -> None:
        """The description is one line that is not empty."""
        description = self.make_factory().description
        self.check(description.strip(), "the description is empty")
        self.assertEqual(description.splitlines(), [description])

    def test_settings_are_an_attrs_class(self) -> None:
        """The settings class is an attrs class, so that its keys can be read from the configuration."""
        settings = self.make_factory().settings
        self.check(isinstance(settings, type) and attrs.has(settings), f"{settings!r} is not an attrs class")

    def test_settings_can_be_read_from_a_configuration(self) -> None:
        """Each field of the settings has a type that a configuration's reader knows."""
        declared = schema(self.make_factory().settings)
        for key, field in declared.fields.items():
            try:
                alternatives(declared.hints[field.name])
            except UnreadableTypeError as error:
                raise self.failureException(f"{key}: {error}") from None

    def test_creates_what_its_interface_promises(self) -> None:
        """What ``create`` makes has every method of its interface."""
        verifyObject(self.kind.product, self.create())

    def test_create_makes_a_new_one_each_time(self) -> None:
        """Two entries of the configuration never share one instance."""
        self.assertIsNot(self.create(), self.create())

    def test_create_schedules_nothing(self) -> None:
        """Work begins with ``start`` or the first question, not with ``create``."""
        self.create()
        self.check(not self.clock.getDelayedCalls(), "create scheduled something")
