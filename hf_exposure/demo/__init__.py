"""The whole workflow in one place: insert, train, measure, extract, report."""

from hf_exposure.demo.job import DemoSettings, run_demo

__all__ = ["DemoSettings", "run_demo"]
