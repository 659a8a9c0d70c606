"""Steps that several processes take together over MPI, each on its part of the parameters."""

from instep.distributed.agreement import RankError as RankError
from instep.distributed.objective import MeanObjective as MeanObjective
from instep.distributed.sharded import Sharded as Sharded
