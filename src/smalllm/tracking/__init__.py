"""What a run writes, shown in W&B, TensorBoard, SwanLab or trackio: one process per tracker reads the run's files."""
