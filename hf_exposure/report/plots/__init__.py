"""Plots of one report, of a training run, of several runs. matplotlib is an optional part; nothing else needs it."""

from hf_exposure.report.plots.draw import draw_comparison, draw_plots, matplotlib_is_installed

__all__ = ["draw_comparison", "draw_plots", "matplotlib_is_installed"]
