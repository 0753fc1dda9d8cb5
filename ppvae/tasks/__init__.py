"""What can be done with a pair? One file a task."""
