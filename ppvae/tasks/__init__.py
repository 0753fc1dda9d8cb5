"""What can be done with a pair? One file per task."""
