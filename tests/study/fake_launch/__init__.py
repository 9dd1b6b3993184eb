"""Commands that leave what launch.train and launch.evaluate leave, in no time."""
