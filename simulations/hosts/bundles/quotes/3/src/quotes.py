import quotations

if __name__ == "__main__":
    quotations.serve("127.0.0.1", 8083)
