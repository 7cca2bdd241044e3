"""What people read: lines on the terminal and one HTML file."""
