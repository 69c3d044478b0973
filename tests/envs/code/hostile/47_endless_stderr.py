# stdin | fills the error stream for ever
import sys

while True:
    sys.stderr.write("x" * 65536)
