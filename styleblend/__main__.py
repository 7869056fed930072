"""`python -m styleblend ...`"""
import sys

from styleblend.cli import main

sys.exit(main())
