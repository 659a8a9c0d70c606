"""How a job is handed to other threads, as LLVM IR: two functions, and the memory they share.

`serve` is where a worker stays for the life of the process: it sleeps, claims a job, runs it.
`share` is what a step calls: it posts a job to each worker, does it as well, and takes it back
from those that have not claimed it. So nobody waits for a worker that is late, and none touches
the memory of a job after `share` has returned.

A thread sleeps on a lock of Python's own, which the stable ABI has on every platform: another
thread may release it, and a signal does not end the wait. Neither function needs the interpreter.

A job is published by the release of `post`, and seen by the acquire of `claim`; its results are
published by the release with which a worker ends, and seen by the acquire of `look` or `await`.
Locks order what they guard by themselves. This was reasoned out: only x86, which orders stores
strongly, and emulators on it have run it, no processor that is free to reorder them.
"""

import sys

from instep.engines.native.mode import emit_mode
from instep.engines.native.target import Target

#: 64-bit words of a worker, and of what stands before the first one, whose only word says whether
#: the pool is taken. Two cache lines, for processors fetch lines in pairs.
RECORD = 16

# Positions in the record of a worker. The two locks are held while there is nothing to tell.
STATE, KERNEL, ARGUMENTS, WAKE, DONE, CPU = range(6)

# States of a worker. It is woken on the way from IDLE to POSTED. A worker that has not woken when
# its job is taken back is not woken for the next one: it will find it.
IDLE, POSTED, RUNNING, AWAITED, TAKEN_BACK = range(5)

#: Looks at a worker that runs, before sleeping until it is done: about 20 us, the time of a chunk.
#: Sleeping at once makes 26 us of Adam on 128 Ki elements 40 (Zen 5). Each look waits as long as
#: the processor's own pause; that of ARM was not measured.
LOOKS = 1000


def emit_serve(target: Target) -> str:
    """Return the module of `serve(worker)`.

    A thread begins with the floating-point mode of the one that has started it.
    """
    return f"""\
{_LOCKS}
{emit_mode(target)}
{_keep_off()}
define void @serve(ptr %worker) {{
entry:
  %kernel_at = getelementptr i64, ptr %worker, i64 {KERNEL}
  %arguments_at = getelementptr i64, ptr %worker, i64 {ARGUMENTS}
  %wake_at = getelementptr i64, ptr %worker, i64 {WAKE}
  %wake = load ptr, ptr %wake_at
  %done_at = getelementptr i64, ptr %worker, i64 {DONE}
  %done = load ptr, ptr %done_at
  %mode = call i64 @take_mode()
  br label %sleep

sleep:
  %woken = call i32 @PyThread_acquire_lock(ptr %wake, i32 1)
  call void @keep_off(ptr %worker)
  br label %claim

claim:
  %posted = cmpxchg ptr %worker, i64 {POSTED}, i64 {RUNNING} acquire monotonic
  %is_claimed = extractvalue {{ i64, i1 }} %posted, 1
  br i1 %is_claimed, label %work, label %late

; The job was taken back. There may be another by now.
late:
  %taken_back = cmpxchg ptr %worker, i64 {TAKEN_BACK}, i64 {IDLE} monotonic monotonic
  %is_idle = extractvalue {{ i64, i1 }} %taken_back, 1
  br i1 %is_idle, label %sleep, label %claim

work:
  %kernel = load ptr, ptr %kernel_at
  %arguments = load ptr, ptr %arguments_at
  call void %kernel(ptr %arguments)
  %before = atomicrmw xchg ptr %worker, i64 {IDLE} release
  %is_awaited = icmp eq i64 %before, {AWAITED}
  br i1 %is_awaited, label %tell, label %sleep

tell:
  call void @PyThread_release_lock(ptr %done)
  br label %sleep
}}
"""


def emit_share(target: Target) -> str:
    """Return the module of `share(pool, workers, kernel, arguments)`."""
    declaration, pause = _pause(target)
    return f"""\
{_LOCKS}
{declaration}
{_note_cpu()}
define void @share(ptr %pool, i64 %workers, ptr %kernel, ptr %arguments) {{
entry:
  %free = cmpxchg ptr %pool, i64 0, i64 1 acquire monotonic
  %is_free = extractvalue {{ i64, i1 }} %free, 1
  br i1 %is_free, label %next_to_post, label %alone

; Another thread shares its work just now.
alone:
  call void %kernel(ptr %arguments)
  ret void

next_to_post:
  %p = phi i64 [ 0, %entry ], [ %p_next, %post ], [ %p_next, %wake ]
  %p_more = icmp ult i64 %p, %workers
  br i1 %p_more, label %post, label %work

post:
  %p_next = add i64 %p, 1
  %idler = getelementptr [{RECORD} x i64], ptr %pool, i64 %p_next
  %kernel_at = getelementptr i64, ptr %idler, i64 {KERNEL}
  store ptr %kernel, ptr %kernel_at
  %arguments_at = getelementptr i64, ptr %idler, i64 {ARGUMENTS}
  store ptr %arguments, ptr %arguments_at
  call void @note_cpu(ptr %idler)
  %before = atomicrmw xchg ptr %idler, i64 {POSTED} release
  %sleeps = icmp eq i64 %before, {IDLE}
  br i1 %sleeps, label %wake, label %next_to_post

wake:
  %wake_at = getelementptr i64, ptr %idler, i64 {WAKE}
  %wake_lock = load ptr, ptr %wake_at
  call void @PyThread_release_lock(ptr %wake_lock)
  br label %next_to_post

work:
  call void %kernel(ptr %arguments)
  br label %next_to_join

next_to_join:
  %j = phi i64 [ 0, %work ], [ %j_next, %join ], [ %j_next, %look ], [ %j_next, %await ],
               [ %j_next, %sleep ]
  %j_more = icmp ult i64 %j, %workers
  br i1 %j_more, label %join, label %done

join:
  %j_next = add i64 %j, 1
  %worker = getelementptr [{RECORD} x i64], ptr %pool, i64 %j_next
  %posted = cmpxchg ptr %worker, i64 {POSTED}, i64 {TAKEN_BACK} monotonic monotonic
  %is_taken_back = extractvalue {{ i64, i1 }} %posted, 1
  br i1 %is_taken_back, label %next_to_join, label %look

look:
  %looks = phi i64 [ 0, %join ], [ %looks_next, %look_again ]
  %state = load atomic i64, ptr %worker acquire, align 8
  %is_done = icmp eq i64 %state, {IDLE}
  br i1 %is_done, label %next_to_join, label %look_again

look_again:
  {pause}
  %looks_next = add i64 %looks, 1
  %may_look = icmp ult i64 %looks_next, {LOOKS}
  br i1 %may_look, label %look, label %await

await:
  %running = cmpxchg ptr %worker, i64 {RUNNING}, i64 {AWAITED} acquire acquire
  %is_running = extractvalue {{ i64, i1 }} %running, 1
  br i1 %is_running, label %sleep, label %next_to_join

sleep:
  %done_at = getelementptr i64, ptr %worker, i64 {DONE}
  %done_lock = load ptr, ptr %done_at
  %told = call i32 @PyThread_acquire_lock(ptr %done_lock, i32 1)
  br label %next_to_join

done:
  store atomic i64 0, ptr %pool release, align 8
  ret void
}}
"""


#: Looks of a thread for another one in `meet`: some 100 us, ten times as long as a wake takes.
_LOOKS_TO_MEET = 2000


def emit_meet(target: Target) -> str:
    """Return the module of `meet(count)`: a job that is over when two threads are at it.

    It takes what it takes to wake a worker. Where none comes, it is over all the same.
    """
    declaration, pause = _pause(target)
    return f"""\
{declaration}

define void @meet(ptr %count) {{
entry:
  %before = atomicrmw add ptr %count, i64 1 acq_rel
  br label %look

look:
  %looks = phi i64 [ 0, %entry ], [ %looks_next, %look_again ]
  %here = load atomic i64, ptr %count acquire, align 8
  %are_two = icmp uge i64 %here, 2
  br i1 %are_two, label %done, label %look_again

look_again:
  {pause}
  %looks_next = add i64 %looks, 1
  %may_look = icmp ult i64 %looks_next, {_LOOKS_TO_MEET}
  br i1 %may_look, label %look, label %done

done:
  ret void
}}
"""


_LOCKS = """\
declare i32 @PyThread_acquire_lock(ptr, i32)
declare void @PyThread_release_lock(ptr)
"""


def _pause(target: Target) -> tuple[str, str]:
    """Return what tells a processor that it waits in a loop: a declaration and a call."""
    if target.is_x86:
        return "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"
    if target.is_arm:
        # Not `yield`, which most processors take for nothing: the looks would be over at once.
        # A barrier (isb sy) empties the pipeline, and so takes about as long as a pause of x86.
        return "declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"
    return "", ""


# A worker keeps off the CPU of the thread that steps. On a virtual machine Linux takes a CPU that
# has slept a millisecond for one that the hypervisor has taken away, and puts a worker behind the
# thread that wakes it, where it comes too late, in this step and in those after it. After a rest of
# 10 ms, 1 Mi elements of Adam take 200 us on one thread or on two, and 120 to 150 on two with this
# (Zen 5, KVM).


def _note_cpu() -> str:
    """Return the function that tells a worker which CPU this thread runs on."""
    if sys.platform != "linux":
        return _NOTHING.format("note_cpu")
    return f"""\
declare i32 @sched_getcpu()

define internal void @note_cpu(ptr %worker) {{
  %cpu = call i32 @sched_getcpu()
  %cpu_at = getelementptr i64, ptr %worker, i64 {CPU}
  store atomic i32 %cpu, ptr %cpu_at monotonic, align 8
  ret void
}}
"""


def _keep_off() -> str:
    """Return the function with which a worker leaves the CPU of the thread that has woken it.

    From then on it has all CPUs of the process but that one: it forgets others that it has left,
    and follows where the user lets the process run.
    """
    if sys.platform != "linux":
        return _NOTHING.format("keep_off")
    return f"""\
declare i32 @sched_getcpu()
declare i32 @getpid()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)

define internal void @keep_off(ptr %worker) {{
entry:
  %mask = alloca [{_MASK_WORDS} x i64]
  %cpu = call i32 @sched_getcpu()
  %taken_at = getelementptr i64, ptr %worker, i64 {CPU}
  %taken = load atomic i32, ptr %taken_at monotonic, align 8
  %is_taken = icmp eq i32 %cpu, %taken
  br i1 %is_taken, label %ask, label %done

ask:
  %process = call i32 @getpid()
  %failed = call i32 @sched_getaffinity(i32 %process, i64 {8 * _MASK_WORDS}, ptr %mask)
  %is_known = icmp eq i32 %failed, 0
  br i1 %is_known, label %leave, label %done

; Where it is the only one, the call fails and changes nothing.
leave:
  %number = zext i32 %cpu to i64
  %word = lshr i64 %number, 6
  %place = and i64 %number, 63
  %bit = shl i64 1, %place
  %others = xor i64 %bit, -1
  %word_at = getelementptr i64, ptr %mask, i64 %word
  %allowed = load i64, ptr %word_at
  %kept = and i64 %allowed, %others
  store i64 %kept, ptr %word_at
  %left = call i32 @sched_setaffinity(i32 0, i64 {8 * _MASK_WORDS}, ptr %mask)
  br label %done

done:
  ret void
}}
"""


#: Words of a set of CPUs: with more CPUs than bits, asking for them fails and nothing is left.
_MASK_WORDS = 16

_NOTHING = """\
define internal void @{}(ptr %worker) {{
  ret void
}}
"""
