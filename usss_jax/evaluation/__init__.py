"""Confusion matrix and mIoU over whole splits."""
