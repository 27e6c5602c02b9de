import sys; sys.path[:0]=["/work/main/tests/fuzz"]
from hypothesis import settings, Phase, HealthCheck
import test_three_sessions as t
T = t.ThreeThatMove.TestCase
T.settings = settings(max_examples=300, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], print_blob=False, database=None)
