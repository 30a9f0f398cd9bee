"""Reasoning with a language model: chains and votes, programs in a sandbox, search, tools. One file an idea."""

from lessonlib.models.writing import Completion, PromptTooLong

from .chains import (
    Demonstration,
    Vote,
    chain_prompt,
    direct_prompt,
    final_choice,
    final_number,
    majority_vote,
    sample_chains,
    step_by_step_answer_prompt,
    step_by_step_prompt,
    write_chains,
)
from .programs import ProgramRejected, ProgramResult, run_program, run_programs
from .search import (
    Move,
    Search,
    TextProposer,
    breadth_first,
    every_move,
    greedy,
    makes_24,
    nearness,
    read_move,
    solve_24,
    start,
)
from .tools import ReAct, Step, Trace, calculator, model_writer
