"""Searching: every method on every data set, on validation alone; then the best settings, trained again and tested.

home/sweeps/NAME/
  sweep.yaml, plan.json       the sweep as it was started
  optuna.journal              the studies, `optuna-dashboard` opens it
  trials/HOTELS/SYMCERE/0007  see symcere.distributed.trial
"""

from symcere.steps.sweeps.command import Stopped, sweep
from symcere.steps.sweeps.plan import plan

__all__ = ["Stopped", "plan", "sweep"]
