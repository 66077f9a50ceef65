"""Operations of jobs: `iot` for operators, `iot-jobs-data` for devices."""
