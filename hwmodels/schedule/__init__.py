"""What a whole operator graph costs: live ranges, the schedule, the report and the limits that it breaks."""
