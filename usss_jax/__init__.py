"""One segmentation model across image domains with different label spaces (USSS, ICCV 2019) in JAX."""
