"""Ways to and from tools that people use beside edgeseg: their objects, their dataset files, what their readers expect."""
