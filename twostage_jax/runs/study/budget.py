"""Numbers of draws of an arm that has a budget."""

from collections.abc import Mapping

FEWEST_DRAWS = 3


def share_draws(costs: Mapping[int, int], most: Mapping[int, int], budget: int) -> dict[int, int]:
    """Share a budget among the numbers of labels of a study.

    Each number of labels first gets three draws, even if they exceed the budget. Then the number
    on whose draws least has been spent gets another draw, as long as the budget lasts. So small
    numbers of labels get more draws, and their errors differ most between draws.

    Args:
        costs: cost of one draw for each number of labels.
        most: largest number of draws for each number of labels.
        budget: cost of all draws together.

    >>> share_draws({10: 1, 100: 2, 1000: 20}, {10: 20, 100: 20, 1000: 1}, 60)
    {10: 20, 100: 10, 1000: 1}
    """
    draws = {count: min(FEWEST_DRAWS, most[count]) for count in costs}
    rest = budget - sum(costs[count] * draws[count] for count in costs)
    while open_counts := [n for n in costs if draws[n] < most[n] and costs[n] <= rest]:
        count = min(open_counts, key=lambda n: (draws[n] * costs[n], n))
        draws[count] += 1
        rest -= costs[count]
    return draws
