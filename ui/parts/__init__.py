"""What pages share: inputs from the address, words, notices, links, prices, files to save.

Every page may import it; it imports no page.
"""
