"""What the tutorial's programs share: the flags of ../harness.py, and the bus they describe."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness  # noqa: E402


def open_bus(service_name, description, add_flags=lambda parser: None):
    parser = harness.flags(description, service_name)
    parser.set_defaults(api="auth")
    add_flags(parser)
    args = parser.parse_args()
    return harness.open_bus(args), args
