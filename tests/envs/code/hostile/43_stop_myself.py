# function | stops itself, so that nobody hears of it again
import os, signal


def add(a, b):
    os.kill(os.getpid(), signal.SIGSTOP)
