TITLE = "x"


def run(world):
    pass
