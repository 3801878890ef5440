"""A simulated survey: galaxies, mosaics, targets, truth, and the votes of volunteers."""

from gzsurvey.simulation.draw import draw
from gzsurvey.simulation.population import GALAXY, population
from gzsurvey.simulation.render import render
from gzsurvey.simulation.stamps import stamps
from gzsurvey.simulation.survey import SimulatedSurvey, simulate

__all__ = ["GALAXY", "SimulatedSurvey", "draw", "population", "render", "simulate", "stamps"]
