"""Predicting: opening any model, reading any source of images, writing results. No torch unless a checkpoint is opened."""
