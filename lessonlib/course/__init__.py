"""What a notebook needs to be a lesson: the session, quizzes, the check of the machine."""
