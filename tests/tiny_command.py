"""A command as it is, that knows the encoder of toy.py too.

python tiny_command.py {main,prototypes,class_plot,predict,evaluate} FLAGS
"""

import runpy
import sys

import toy

if __name__ == "__main__":
    toy.register()
    runpy.run_module(f"usss_jax.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
