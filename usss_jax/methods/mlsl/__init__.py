"""Multi-Level Self-Learning (WACV 2020) with class-balanced self-training (CBST, ECCV 2018)."""
