"""A command as it is, but with an encoder of three layers as drn_d_22 and as toy; it compiles in a tenth of the time.

python tiny_command.py {main,prototypes,class_plot} FLAGS
"""

import runpy
import sys

from tiny_models import ThreeLayers

from usss_jax.models import universal

if __name__ == "__main__":
    universal.ENCODERS |= {"drn_d_22": ThreeLayers, "toy": ThreeLayers}
    runpy.run_module(f"usss_jax.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
