"""The strategies that place runs."""

from tidemill.config.settings import Settings
from tidemill.domain.strategies.registry import StrategyRegistry, built_in_strategies
from tidemill.errors import InvalidInput, InvalidSettings, Problem


def build_strategies(settings: Settings) -> StrategyRegistry:
    """Every strategy that this version knows, and the default; raises InvalidSettings."""
    strategies = built_in_strategies()
    try:
        strategies.set_default(settings.dispatcher.strategy)
    except InvalidInput as error:
        raise InvalidSettings(
            [
                Problem(f"dispatcher.strategy{place.replace('/', '.')}", message)
                for place, message in error.problems
            ]
        ) from error
    return strategies
